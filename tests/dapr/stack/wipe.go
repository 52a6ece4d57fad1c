package stack

import (
	"fmt"
	"os"
	"path/filepath"
)

// WipeScheduler removes the data of a scheduler that does not run: every reminder, and so every timer, wake-up and dispatched
// activity of every workflow.
func (w *Whole) WipeScheduler() error {
	etcd := filepath.Join(w.dir, "plane", "etcd")
	if _, err := os.Stat(etcd); err != nil {
		return fmt.Errorf("find the scheduler's data: %w", err)
	}
	return os.RemoveAll(etcd)
}
