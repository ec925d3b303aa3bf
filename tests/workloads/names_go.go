//go:build !cgo

package main

func call() {}
