// example URL VIEW PARAMS: after each change, the rows of a view as one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"

	"plutino"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, `usage: example ws://localhost:10081/live fleet '{"site":"n1"}'`)
		os.Exit(2)
	}
	var params map[string]any
	if err := json.Unmarshal([]byte(os.Args[3]), &params); err != nil {
		fmt.Fprintln(os.Stderr, "the parameters are no JSON object:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	lines := json.NewEncoder(os.Stdout)
	lines.SetEscapeHTML(false)
	err := plutino.Follow(ctx, os.Args[1], os.Args[2], plutino.Options{Params: params}, func(change plutino.Change) {
		if err := lines.Encode(change.Sorted()); err != nil {
			stop()
		}
	})
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
