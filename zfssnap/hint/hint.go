// Package hint adds to an error what a user can do about it.
package hint

import "fmt"

type hinted struct {
	error
	hint string
}

// Hint is what commands print below the error.
func (e *hinted) Hint() string  { return e.hint }
func (e *hinted) Unwrap() error { return e.error }

// Add returns the error with a hint.
func Add(err error, hint string) error { return &hinted{err, hint} }

// Errorf is Add for a new error.
func Errorf(hint, format string, args ...any) error { return Add(fmt.Errorf(format, args...), hint) }
