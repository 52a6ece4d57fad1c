// Package fuzz sends everything that there is to every procedure of every service: what is found by itself among the contracts, so
// that a new procedure is tried without a word. `make fuzz` does it for as long as one likes.
package fuzz
