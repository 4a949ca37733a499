"""small-text: which data set does a line describe? Labels lines by coverage. `python examples/small_text_lines.py`"""

import numpy as np
from sklearn import datasets
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from small_text import SklearnClassifier, SklearnDataset

from difal.adapters.small_text import MaxHerdingStrategy, UHerdingStrategy

SOURCES = [datasets.load_iris, datasets.load_digits, datasets.load_wine, datasets.load_breast_cancer]
texts = [source()["DESCR"].splitlines() for source in SOURCES]
lines, y = zip(*[(line, i) for i, text in enumerate(texts) for line in text if len(line) > 20], strict=True)
y, everything = np.array(y), np.arange(len(lines))
tfidf = TfidfVectorizer().fit_transform(lines)
embeddings = TruncatedSVD(20, random_state=0).fit_transform(tfidf)
dataset = SklearnDataset(tfidf, y, target_labels=np.arange(4))

for strategy in (MaxHerdingStrategy(), UHerdingStrategy()):
    labeled = MaxHerdingStrategy().query(None, dataset, everything, everything[:0], y[:0], n=30, embeddings=embeddings)
    for _ in range(3):
        clf = SklearnClassifier(LogisticRegression(C=100), 4)
        clf.fit(dataset[labeled])
        rest = np.setdiff1d(everything, labeled)
        in_order = embeddings[np.concatenate([rest, labeled])]  # small-text's order: unlabeled, then labeled
        picks = strategy.query(clf, dataset, rest, labeled, y[labeled], n=10, embeddings=in_order)
        labeled = np.concatenate([labeled, picks])
    print(
        f"{strategy}: {len(labeled)} of {len(y)} lines, accuracy {np.mean(clf.predict(dataset[rest]) == y[rest]):.3f}"
    )
