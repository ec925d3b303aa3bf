// A shop's backend in gin with pyroscope-go as its README has it. It buys from itself for a while, then stops.
package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/grafana/pyroscope-go"
)

var kept [][]byte

//go:noinline
func pay(until time.Time) (sum int) {
	for time.Now().Before(until) {
		for i := range 100_000 {
			sum += i ^ sum
		}
	}
	kept = append(kept, make([]byte, 64<<10))
	return sum
}

func purchase(c *gin.Context) {
	pyroscope.TagWrapper(c.Request.Context(), pyroscope.Labels("controller", "purchases"), func(context.Context) {
		c.JSON(http.StatusOK, pay(time.Now().Add(20*time.Millisecond)))
	})
}

func main() {
	profiler, err := pyroscope.Start(pyroscope.Config{
		ApplicationName: "backend.purchases",
		ServerAddress:   os.Getenv("PYROSCOPE_SERVER"),
		Logger:          pyroscope.StandardLogger,
	})
	if err != nil {
		panic(err)
	}
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/purchase", purchase)
	// Memory is sent with the first upload, after 15 s; the CPU's profile also at the end.
	for end := time.Now().Add(17 * time.Second); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/purchase", nil))
	}
	if err := profiler.Stop(); err != nil {
		panic(err)
	}
}
