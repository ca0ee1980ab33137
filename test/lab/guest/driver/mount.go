package driver

import (
	"bufio"
	"os"
	"strings"
)

// Mounted reports whether something is mounted at the path.
func Mounted(target string) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	const mountPoint = 4
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > mountPoint && fields[mountPoint] == target {
			return true, nil
		}
	}
	return false, lines.Err()
}
