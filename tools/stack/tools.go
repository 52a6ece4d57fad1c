package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// linkTools makes links in .local/tools/ to buf, its plugins and the linter. They are built from the modules under tools/ into the
// user's cache. Their versions and Go's name the folder, so that another checkout of the repository finds them there.
func (s *stack) linkTools(ctx context.Context) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	if _, err := localstack.LocalDir(s.root); err != nil {
		return err
	}
	if err := os.MkdirAll(s.local("tools"), 0o755); err != nil {
		return err
	}
	for _, module := range []string{"buf", "lint"} {
		dir, err := s.buildTools(ctx, filepath.Join(cache, "checkoutsaga"), module)
		if err != nil {
			return err
		}
		programs, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return err
		}
		for _, program := range programs {
			link := s.local("tools", filepath.Base(program))
			if err := errors.Join(remove(link), os.Symlink(program, link)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stack) buildTools(ctx context.Context, cache, module string) (dir string, err error) {
	source := filepath.Join(s.root, "tools", module)
	version := sha256.New()
	fmt.Fprintln(version, runtime.Version()) // The Go that builds a linter must be the Go whose code it reads.
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		version.Write(text)
	}
	dir = filepath.Join(cache, fmt.Sprintf("%s-%x", module, version.Sum(nil)[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	s.say("Building the tools of tools/%s (once per version; a minute or two) ...", module)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Built aside and moved into place whole.
	aside, err := os.MkdirTemp(cache, module+"-building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(aside)
	if err := os.Chmod(aside, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", aside+"/", "tool")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tools/%s: %w\n%s", module, err, out)
	}
	if err := os.Rename(aside, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(dir); there != nil { // Otherwise another process was faster.
			return "", err
		}
	}
	return dir, nil
}
