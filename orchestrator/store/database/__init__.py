"""URLs, connections, the two dialects, transactions, migrations, and the process lock."""
