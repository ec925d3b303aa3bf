module delivery

go 1.19
