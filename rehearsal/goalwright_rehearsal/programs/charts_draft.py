"""The first draft of the charts: it takes for granted that the table has a certain column of numbers."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

folder = os.path.join("out", PARAMS["charts"])
os.makedirs(folder, exist_ok=True)
table = pd.read_csv(f"in/{PARAMS['cleaned']}", encoding="utf-8")
measure = table[PARAMS["measure"]].astype(float)
figure, axis = plt.subplots(figsize=(7.5, 4))
axis.hist(measure.dropna(), bins=30)
axis.set_title(PARAMS["measure"])
figure.savefig(os.path.join(folder, "01_distribution.png"), dpi=90)
