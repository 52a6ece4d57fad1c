package localstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// kafka is the broker of tools/kafka, which speaks Kafka's protocol. It lets in everybody on loopback: it is only for trying.
var kafka = brokerKind{
	name:      Kafka,
	portCount: 1,
	describe: func(dir string, ports []int, _ string) ([]brokerProcess, error) {
		// The program is a link in dir, made by linkKafka, so that a broker is still recognised after tools/kafka has changed.
		broker := &process{name: Kafka, program: filepath.Join(dir, "broker"), dir: dir,
			args: []string{fmt.Sprint(ports[0]), filepath.Join(dir, "data")}}
		return []brokerProcess{{broker, greets(ports[0], "", "")}}, nil
	},
	env: func(address, _ string) []string { return []string{"KAFKA_BROKERS=" + address} },
}

// BuildKafka builds the broker of tools/kafka below moduleRoot into the user's cache, once per version, and tells its progress.
// Several processes may call it at once; one builds and the others wait.
func BuildKafka(ctx context.Context, moduleRoot string, progress io.Writer) (program string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	source := filepath.Join(moduleRoot, "tools", "kafka")
	version := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("read source of Kafka's broker: %w", err)
		}
		version.Write(text)
	}
	program = filepath.Join(cache, "checkoutsaga", fmt.Sprintf("kafka-%x", version.Sum(nil)[:6]), "kafka")
	b := build{program: program, module: source, pkg: ".", ldflags: "-s -w", what: "the broker that speaks Kafka's protocol"}
	return program, b.run(ctx, progress)
}

func linkKafka(ctx context.Context, moduleRoot, dir string) error {
	program, err := BuildKafka(ctx, moduleRoot, io.Discard)
	if err != nil {
		return err
	}
	link := filepath.Join(dir, "broker")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(program, link)
}
