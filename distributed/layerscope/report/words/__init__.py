"""What the numbers say, in words. Every sentence is computed; nothing is drawn here."""
