"""Where bytes and tables rest: objects, their schemas, and parts that count only once committed."""
