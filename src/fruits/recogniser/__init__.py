"""Recognition, shared by predict, apply and the service: bundle, answers, taxonomy, gallery."""
