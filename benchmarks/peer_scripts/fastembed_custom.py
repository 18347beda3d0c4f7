"""fastembed with a network of one's own, where its release takes one for pictures; else it says so."""

import sys

from given import given

job = given()
try:
    from fastembed import ImageEmbedding
except ImportError as exc:
    sys.exit(str(exc))
if "add_custom_model" not in vars(ImageEmbedding):  # that of its base raises NotImplementedError
    sys.exit("fastembed takes networks of one's own for texts alone (TextEmbedding.add_custom_model), not for pictures")
sys.exit("fastembed takes networks of one's own for pictures now: this script does not know how yet")
