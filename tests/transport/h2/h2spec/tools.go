//go:build tools

// Pins h2spec, which tests/transport/h2/test_h2spec.py runs: `go build github.com/summerwind/h2spec/cmd/h2spec`.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
