// Package saga runs a sequence of steps at several participants so that, in the end, either every step is done or every
// effect is gone again. A saga is declared as a list, each step beside what undoes it. When one is accepted, the list becomes its
// plan, and one durable workflow for durabletask-go, the interpreter, carries out all plans, on Dapr and in process alike. The
// package knows the engine's workflow API and nothing else: no trade, no participant, no database.
//
//	trip, err := saga.Define("trip", 1,
//		saga.Do("reserve-room").At("hotel").UndoneBy("release-room"),
//		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"),
//		saga.Pivot("charge-card").At("bank"), // no way back after this, but its own refusal
//		saga.Do("send-ticket").At("airline").NothingToUndo(),
//	)
//	err = saga.Register(registry, saga.Policy{})
//
// It is a list and not code because a step's answer only decides where the saga goes next. So nothing in it can read a clock,
// forget to end, or recover from the engine's yields, and a wrong list is refused before anything runs.
//
// # What the author writes
//
// One activity for each name, registered under that name. It gets a [Call] and returns a [Reply], and must answer the
// same call again with the same outcome: an engine may run it twice. It bounds its own time. A business refusal is a
// Reply with [Rejected]; an error means "not known", never "refused".
//
// # What the package keeps
//
//   - An undo is registered before its step is tried: an answer that got lost may hide an effect.
//   - A step is tried until its outcome is known. Between attempts the saga waits with a growing backoff; any new
//     [Command] ends that wait. From round [Policy].Patience on, the call says Stuck: somebody should be told.
//   - Applied goes on to the next step. Rejected drops the step's own undo and turns back. TurnedBack, and Applied with
//     TurnBack, turn back and undo that step too. Superseded ends the run at once: another run drives the key now.
//   - Turning back undoes what is registered, last to first, each until it is known to be gone.
//   - The pivot has no undo. If it is refused, everything before it is undone; once it is applied nothing is ever undone,
//     and a later step that is refused is tried again, as Stuck.
//   - The activities' inputs are keys. Error texts are cut at 200 bytes. A run that used up
//     [Policy].MaxAttemptsPerRun ends with [Continue], and the next run goes on in the same [Phase].
//   - What must not be taken for a failed step stops the run with an error and undoes nothing: a panic ([ErrPanic]), a
//     history that the code does not fit any more ([ErrReplay]), an answer to another step ([ErrReply]).
//
// # What the starter must know
//
// The workflow's input is an [Input]. The outcome is a [Result]; a run that failed, or ended with [Continue], is followed
// by a run with the next number, under a new instance id, in the phase that the activities recorded. Commands are raised
// as event [CommandEvent]. They only wake: an activity decides what a cancel means, because it can look at the one record
// that decides races, and a workflow cannot.
//
// A run carries its plan with it, so editing a definition changes no saga under way. The interpreter must fit the histories of runs
// under way, and so must MaxAttemptsPerRun, which must not be lowered. Package replay tells whether the code still fits a recorded
// history; package sagatest plays a saga against scripted activities.
package saga
