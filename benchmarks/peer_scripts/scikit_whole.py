"""A thread pool around ONNX Runtime, then scikit-learn's PCA and logistic regression, scored on the test photos."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from given import batches, given, started, tell
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

job = given()
since = started()
network = job.session()
with ThreadPoolExecutor(job.cores) as pool:
    rows = list(pool.map(lambda some: network(job.batch([job.pixels(path) for path in some])), batches(job.photos)))
x, y, train = np.concatenate(rows), np.array(job.labels), np.array(job.train)
job.save(x)
featurized = started() - since
pca = PCA(job.components).fit(x[train])
pca_done = started() - since
features = pca.transform(x)
features /= np.sqrt(np.square(features[train]).sum(axis=1).mean())  # else L-BFGS hardly converges
model = LogisticRegression(C=30.0, max_iter=400).fit(features[train], y[train])
fitted = started() - since
score = float(model.score(features[~train], y[~train]))
tell(
    since, ["scikit-learn", "onnxruntime", "pillow"], accuracy=score, featurizing=featurized,
    pca=pca_done - featurized, fit=fitted - pca_done,
)  # fmt: skip
