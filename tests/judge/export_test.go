package judge

// Of is a judge over databases that are open, such as transactions in which something was made wrong.
func Of(orchestrator, warehouse, payment querier) *Judge {
	return &Judge{orchestrator: orchestrator, warehouse: warehouse, payment: payment, pieces: make(map[string]int64)}
}
