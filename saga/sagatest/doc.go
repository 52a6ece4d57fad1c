// Package sagatest plays a saga against scripted activities. Scenario.Play does so on a virtual clock, without a backend
// and in well under a millisecond a turn, so that a test can go through thousands of ways a saga may take; Scenario.Start
// does so with the real client and an in-process task hub. Both give back what happened as a readable list and as a
// history, which package replay can check.
//
// Exploration goes further: it plays a definition with its author's own participants and the real rules of the row, through every single
// trouble (refused, failing, lost, late, twice, killed, cancelled, expired) at every call, each trouble on the way back, and a way back right
// after each. It reports the shortest schedule that breaks a promise, as a line to paste into a test. Memory is a participant that keeps every
// promise, and OnceOrNothing an audit of effects.
package sagatest
