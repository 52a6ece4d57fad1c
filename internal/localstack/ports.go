package localstack

// FreePorts are n different loopback ports that nobody uses now and that the kernel gives to no outgoing connection, so that
// what is killed finds its port free when it is started again.
func FreePorts(n int) ([]int, error) { return freePorts(n) }
