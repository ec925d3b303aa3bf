module doctor-server

go 1.19
