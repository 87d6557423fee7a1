"""Programs for those who maintain this project; the installed package does not contain them."""
