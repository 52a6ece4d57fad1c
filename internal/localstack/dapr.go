package localstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The versions of Dapr that the project is built for.
const (
	DaprVersion    = "1.18.2"
	DaprCLIVersion = "1.16.5"
)

// Dapr are the paths of a Dapr's programs.
type Dapr struct {
	Daprd, Placement, Scheduler, CLI string
}

// ErrNoDapr: Dapr is not installed, and BuildDapr has not built it.
var ErrNoDapr = errors.New("Dapr " + DaprVersion + " is not installed and has not been built; `make install-dapr` builds it")

// FindDapr finds the Dapr that `dapr init --slim` installed in ~/.dapr/bin, if daprd has our minor version and the control plane is
// beside it. (A plain `dapr init` puts the control plane into containers, and it cannot be started from here.) Otherwise it finds
// the one that BuildDapr built.
func FindDapr(ctx context.Context) (Dapr, error) {
	if installed, ok := installedDapr(ctx); ok {
		return installed, nil
	}
	built, err := cachedDapr()
	if err != nil {
		return Dapr{}, err
	}
	for _, program := range []string{built.Daprd, built.Placement, built.Scheduler, built.CLI} {
		if _, err := os.Stat(program); err != nil {
			return Dapr{}, ErrNoDapr
		}
	}
	return built, nil
}

func installedDapr(ctx context.Context) (Dapr, bool) {
	home, err := os.UserHomeDir()
	if err != nil {
		return Dapr{}, false
	}
	cli, err := exec.LookPath("dapr")
	if err != nil {
		return Dapr{}, false
	}
	bin := filepath.Join(home, ".dapr", "bin")
	d := Dapr{Daprd: filepath.Join(bin, "daprd"), Placement: filepath.Join(bin, "placement"), Scheduler: filepath.Join(bin, "scheduler"), CLI: cli}
	for _, program := range []string{d.Placement, d.Scheduler} {
		if _, err := os.Stat(program); err != nil {
			return Dapr{}, false
		}
	}
	version, err := exec.CommandContext(ctx, d.Daprd, "--version").Output()
	return d, err == nil && strings.HasPrefix(strings.TrimSpace(string(version)), "1.18.")
}

// cachedDapr is where BuildDapr puts its programs. The version names the folder; all checkouts of the repository share it.
func cachedDapr() (Dapr, error) {
	cache, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	if err != nil {
		return Dapr{}, fmt.Errorf("find cache folder: %w", err)
	}
	runtime := filepath.Join(cache, "checkoutsaga", "dapr-"+DaprVersion)
	return Dapr{
		Daprd:     filepath.Join(runtime, "daprd"),
		Placement: filepath.Join(runtime, "placement"),
		Scheduler: filepath.Join(runtime, "scheduler"),
		CLI:       filepath.Join(cache, "checkoutsaga", "dapr-cli-"+DaprCLIVersion, "dapr"),
	}, nil
}

// BuildDapr builds what FindDapr does not find, from the modules in tools/dapr and tools/daprcli below moduleRoot, and tells its
// progress. Several processes may call it at once; one builds and the others wait.
func BuildDapr(ctx context.Context, moduleRoot string, progress io.Writer) (Dapr, error) {
	if d, err := FindDapr(ctx); !errors.Is(err, ErrNoDapr) {
		return d, err
	}
	d, err := cachedDapr()
	if err != nil {
		return Dapr{}, err
	}
	runtime := filepath.Join(moduleRoot, "tools", "dapr")
	runtimeFlags := "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version=" + DaprVersion
	for _, b := range []build{
		{d.Daprd, runtime, "github.com/dapr/dapr/cmd/daprd", runtimeFlags, "Dapr's sidecar (several minutes the first time)"},
		{d.Placement, runtime, "github.com/dapr/dapr/cmd/placement", runtimeFlags, "Dapr's placement service"},
		{d.Scheduler, runtime, "github.com/dapr/dapr/cmd/scheduler", runtimeFlags, "Dapr's scheduler"},
		{d.CLI, filepath.Join(moduleRoot, "tools", "daprcli"), "github.com/dapr/cli", "-s -w -X main.version=" + DaprCLIVersion,
			"Dapr's command line (several minutes the first time)"},
	} {
		if err := b.run(ctx, progress); err != nil {
			return Dapr{}, err
		}
	}
	return d, nil
}

// build is a program, the module that pins it, and how to build it.
type build struct {
	program, module, pkg, ldflags, what string
}

// run builds the program unless it is there. It appears whole or not at all.
func (b build) run(ctx context.Context, progress io.Writer) error {
	dir := filepath.Dir(b.program)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(b.program); err == nil {
		return nil
	}
	temp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	fmt.Fprintf(progress, "building %s\n", b.what)
	out := filepath.Join(temp, filepath.Base(b.program))
	// Only daprd needs the tag: without it, it has no components at all, and panics.
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "stablecomponents", "-ldflags", b.ldflags, "-o", out, b.pkg)
	cmd.Dir = b.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", b.pkg, err, strings.TrimSpace(string(text)))
	}
	return os.Rename(out, b.program)
}
