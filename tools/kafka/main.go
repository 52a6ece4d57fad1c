// Command kafka is a broker that speaks Kafka's protocol, for one machine: franz-go's kfake, which is no Kafka, but which clients
// cannot tell from one in what a component of Dapr does. It makes topics when they are first asked for, and keeps all it
// was given in a folder, from which it goes on after it was killed.
//
// A module of its own: nothing else here needs a Kafka client's library.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// partitions that a topic gets: more than one, so that what is not keyed rightly comes out of order in a test too.
const partitions = 4

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want the loopback port and the data folder, not %q", args)
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("read port: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	// Not synced: what a write has handed to the system outlives this process, and tests kill processes, not machines.
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(port), // On 127.0.0.1, always.
		kfake.DefaultNumPartitions(partitions), kfake.DataDir(args[1]))
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	makeTopics(cluster)
	fmt.Println("listening on", cluster.ListenAddrs())
	<-stop
	cluster.Close()
	return nil
}

// makeTopics makes each topic that a client asks for. The cluster's own way to do so forgets the topic, with all that it
// holds, when the process is killed.
func makeTopics(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.Metadata), func(request kmsg.Request) (kmsg.Response, error, bool) {
		if asked, ok := request.(*kmsg.MetadataRequest); ok && asked.AllowAutoTopicCreation {
			cluster.SleepControl(func() {
				for _, topic := range asked.Topics {
					if topic.Topic != nil {
						_ = cluster.CreateTopic(*topic.Topic, -1, nil) // It may exist; if it cannot be made, the answer says so.
					}
				}
			})
		}
		return nil, nil, false
	})
}
