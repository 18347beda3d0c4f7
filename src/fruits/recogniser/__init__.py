"""What predict, apply and the service share: the bundle, its answers, its taxonomy, its gallery."""
