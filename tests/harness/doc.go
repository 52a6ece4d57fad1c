// Package harness runs the whole system for tests: orchestrator, warehouse and payment, each on a database of its own, in the
// test's process (StartInProcess) or as the real binaries (StartProcesses). A proxy before each participant breaks calls on demand
// and counts them. The harness knows the system from outside: its API, its addresses, its processes. Package judge says what is
// right.
package harness

import "time"

// patience is how long a test waits for something that takes a moment on an idle machine. It is long because tests share two
// cores; nothing waits for it unless the test fails.
const patience = 60 * time.Second
