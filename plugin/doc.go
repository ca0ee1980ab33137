// Package plugin adapts this project's packages to Velero's plugin interfaces:
// plugin names, registration and adapters. The logic lives in zfssnap and restore.
package plugin
