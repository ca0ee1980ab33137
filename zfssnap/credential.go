package zfssnap

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// Velero writes the file again whenever it opens a location, for each of several
// backups at a time, and empties it first (internal/credentials/file_store.go).
const (
	credentialInterval = 10 * time.Millisecond
	credentialTimeout  = 5 * time.Second
)

// readCredential reads a location's credential. An empty file is looked at again, for
// somebody may be writing it; one that stays so is returned as it is.
func readCredential(file string) (pem []byte, err error) {
	if file == "" {
		return nil, nil
	}
	_ = wait.PollUntilContextTimeout(context.Background(), credentialInterval, credentialTimeout, true, func(context.Context) (bool, error) {
		pem, err = os.ReadFile(file)
		return err != nil || len(pem) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the location's credential: %w", err)
	}
	return pem, nil
}
