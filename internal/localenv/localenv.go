// Package localenv reads and writes .local/env. In it `make up` tells scripts and the command line where the system is that it
// started in this checkout of the repository. The file has passwords, and leads its readers to a server.
package localenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxSize bounds what is read, in bytes; the file has one short line for each application.
const maxSize = 1 << 20

// DistrustedError is about a file that exists and is not believed.
type DistrustedError struct {
	Path, Why string
}

func (e *DistrustedError) Error() string {
	return fmt.Sprintf("%s is not believed: %s", e.Path, e.Why)
}

// Path is where the file of a folder is.
func Path(folder string) string { return filepath.Join(folder, ".local", "env") }

// Read returns what the file of a folder says, by name. It believes the file only if nobody but this user and root can have written
// it: both the file and its folder belong to one of them, are writable for nobody else, and are no links. Otherwise the error is a
// *DistrustedError; without a file it is fs.ErrNotExist.
func Read(folder string) (map[string]string, error) {
	path := Path(folder)
	distrusted := func(why string) error { return &DistrustedError{Path: path, Why: why} }
	// Neither a link nor a named pipe without a writer gets further than this.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fs.ErrNotExist
	case errors.Is(err, syscall.ELOOP):
		return nil, distrusted("it is a link")
	case errors.Is(err, syscall.ENXIO):
		return nil, distrusted("it is no regular file")
	case errors.Is(err, fs.ErrPermission):
		return nil, distrusted("it may not be read by this user")
	case err != nil:
		return nil, fmt.Errorf("open local settings: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at local settings: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, distrusted("it is no regular file")
	}
	if others := writableByOthers(info); others != "" {
		return nil, distrusted("it " + others)
	}
	if info, err = os.Lstat(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("look at folder of local settings: %w", err)
	}
	if !info.IsDir() {
		return nil, distrusted("its folder is a link")
	}
	if others := writableByOthers(info); others != "" {
		return nil, distrusted("its folder " + others)
	}
	return parse(file)
}

// writableByOthers says how a user other than this one and root may have written a file, or nothing.
func writableByOthers(info fs.FileInfo) string {
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() {
		return fmt.Sprintf("belongs to another user (uid %d)", owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Sprintf("may be written by other users (mode %04o)", mode)
	}
	return ""
}

func parse(file io.Reader) (map[string]string, error) {
	values := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(file, maxSize))
	for lines.Scan() {
		if name, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "="); ok {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read local settings: %w", err)
	}
	return values, nil
}

// Write replaces the file of a folder in one step: a reader sees the old one or the new one. The folder must have a .local. Only
// this user can read the file.
func Write(folder string, values map[string]string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&text, "%s=%s\n", name, values[name])
	}
	path := Path(folder)
	next, err := os.CreateTemp(filepath.Dir(path), ".env-") // Of mode 0600.
	if err != nil {
		return fmt.Errorf("write local settings: %w", err)
	}
	defer os.Remove(next.Name())
	_, err = next.WriteString(text.String())
	if err := errors.Join(err, next.Close()); err != nil {
		return fmt.Errorf("write local settings: %w", err)
	}
	return os.Rename(next.Name(), path)
}
