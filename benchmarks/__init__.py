"""How fast mmmeta is: ratios to the floor of the machine and to others, measured in alternation in one run."""
