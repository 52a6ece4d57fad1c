package judge

import "github.com/jackc/pgx/v5"

// Of is a judge over transactions in which something was made wrong.
func Of(transactions map[string]pgx.Tx) *Judge {
	databases := make(map[string]querier, len(transactions))
	for name, tx := range transactions {
		databases[name] = tx
	}
	return of(databases)
}
