// Package restore is the restore item action that rewrites objects on their way
// into a cluster. It finds the profile a restore asks for and hands every object
// to the rule engine in restore/rules; what to rewrite and how is decided there.
package restore
