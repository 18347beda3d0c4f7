"""What a recogniser is worth: answers to photos that it did not learn, counted, and how much of them is memory."""
