package localstack

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// LocalDir makes the folder for all that a checkout of the repository runs (data, logs, passwords), for this user alone.
func LocalDir(root string) (string, error) {
	dir := filepath.Join(root, ".local")
	return dir, PrivateDir(dir)
}

// PrivateDir makes a folder that only this user may enter, or closes an existing one to others. It refuses a folder of another
// user, and a link, which may lead anywhere.
func PrivateDir(path string) error { return ownDir(path, 0o700) }

// ownDir is PrivateDir with another mode.
func ownDir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Both go by the open folder, not by its name: what was checked is what is changed.
	dir, err := openDir(path, os.Geteuid())
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Chmod(mode)
}

// openDir opens a folder that belongs to one of the users. It follows no link.
func openDir(path string, owners ...int) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is no folder of its own: remove it, or what it is a link to will not be protected", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err != nil {
		dir.Close()
		return nil, err
	}
	if has := int(info.Sys().(*syscall.Stat_t).Uid); !slices.Contains(owners, has) {
		dir.Close()
		return nil, fmt.Errorf("%s belongs to another user (uid %d), who might change what is in it: remove it, or work as that user", path, has)
	}
	return dir, nil
}

// password reads the password in a file of a private folder, or makes one.
func password(path string) (string, error) {
	kept, err := readPassword(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return kept, err
	}
	made := rand.Text()
	return made, writePassword(path, made)
}

func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func writePassword(path, password string) error {
	if err := os.WriteFile(path+".new", []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write password: %w", err)
	}
	return os.Rename(path+".new", path)
}

// lockFile waits until this process alone holds the lock on path.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
