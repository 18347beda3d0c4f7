"""ONNX graphs: editing, joining two of them, and data in files beside them."""
