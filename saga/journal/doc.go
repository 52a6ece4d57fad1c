// Package journal holds the pure rules of a saga's row: which way it can go, what an attempt may do, what follows from its outcome,
// and what an operator may ask. The row decides every race about its saga. So whoever stores it locks it, lets a rule decide, and
// writes what the rule says in the same transaction. Nothing here reads a clock or a database, and nothing names a trade: the rules
// go by the plan in the row.
//
//	forward ──pivot claimed──► pivoted ──last step──► final (CONFIRMED)
//	   │                          │ pivot's recorded refusal, or an operator's refund
//	   └─cancel, deadline, refusal┴────► undoing ──last compensation──► final (verdict)
package journal
