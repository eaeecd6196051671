"""How far an operation is: the totals of its instances, and when it will be over."""
