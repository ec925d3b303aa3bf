module keepalive

go 1.19
