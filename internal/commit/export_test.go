package commit

// Waiting is how many callers wait for a transaction to begin.
func (c *Committer) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}
