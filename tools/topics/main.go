// Command topics writes what follows from the events' contracts: docs/topics.md, for people, and components/subscriptions.yaml, for
// Dapr. `make generate` runs it:
//
//	buf build proto -o - | go run ./tools/topics <folder>
//
// Topics, owners and consumers come from internal/events/event. Standard input brings the contracts once more, as a set of
// descriptors, because the compiled ones have lost their comments.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "topics:", err)
		os.Exit(1)
	}
}

func run(args []string, descriptors io.Reader) error {
	if len(args) != 1 {
		return errors.New("usage: buf build proto -o - | topics <folder>")
	}
	contracts, err := readContracts(descriptors)
	if err != nil {
		return err
	}
	page, err := writePage(contracts)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{
		filepath.Join(args[0], "docs", "topics.md"):                page,
		filepath.Join(args[0], "components", "subscriptions.yaml"): writeSubscriptions(),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// readContracts reads a set of descriptors and demands exactly the events that internal/events/event knows.
func readContracts(from io.Reader) (*protoregistry.Files, error) {
	data, err := io.ReadAll(from)
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	known := make(map[protoreflect.FullName]bool)
	for _, topic := range event.Topics() {
		known[topic.FullName()] = true
		if _, err := files.FindDescriptorByName(topic.FullName()); err != nil {
			return nil, fmt.Errorf("read contracts: %s: %w", topic.FullName(), err)
		}
	}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			if proto.HasExtension(m.Options(), eventv1.E_Event) && !known[m.FullName()] {
				err = fmt.Errorf("%s is declared as an event, and internal/events/event does not import its package", m.FullName())
			}
		}
		return err == nil
	})
	return files, err
}
