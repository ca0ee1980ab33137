package vm

import "strings"

// commandLine writes arguments so that a shell reads exactly them: an SSH
// server is given one text and hands it to the user's shell.
func commandLine(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
