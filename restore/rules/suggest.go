package rules

import (
	"fmt"
	"slices"
	"strings"
)

// suggest says which of the known words was meant, or lists them.
func suggest(word string, known []string) string {
	best, distance := "", 1+max(2, len(word)/3)
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := levenshtein(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known: " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
}

// levenshtein counts the edits that make b of a. Words too long to be a slip of
// the pen are far from everything.
func levenshtein(a, b string) int {
	if max(len(a), len(b)) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
