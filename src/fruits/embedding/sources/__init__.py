"""Where networks come from: a Hugging Face hub, torch; what makes one of them a backbone."""
