module plutino

go 1.21
