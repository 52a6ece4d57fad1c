// Package sagatest plays a saga against scripted activities. Scenario.Play uses a virtual clock, no backend, and well under a
// millisecond a turn, so that a test can try thousands of ways that a saga may take. Scenario.Start uses the real client and an
// in-process task hub. Both return what happened as a readable list and as a history, which package replay can check.
//
// Exploration goes further. It plays a definition with its author's own participants and the real rules of the row. It tries every
// trouble (refused, failing, lost, late, twice, killed, cancelled, expired) at every call, every trouble on the way back, and a way
// back right after each. It reports the shortest schedule that breaks a promise, as a line to paste into a test. Memory is a
// participant that keeps every promise, and OnceOrNothing an audit of effects.
package sagatest
