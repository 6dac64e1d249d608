"""From where on is something that a model can do without the disease called a shortcut?

A probe, or a picture with a part taken away, is flagged by the lower limit of a 95 % interval:

- By its share of the signal of the whole picture, (AUROC - 0.5) / (AUROC of the whole - 0.5), above ``SHARE_LIMIT``:
  more than half of what the whole picture gives is there without it. Not from 0 on, because what lies outside the
  lungs does go with diseases - age, build, the position of a patient too ill to stand -, and because patients are few:
  among the 200 of a phantom in which nothing is planted, chance alone gave a border a share of a third.
- What is no picture at all (file facts, the source) also by its own AUROC, above ``AUROC_LIMIT``, whatever the whole
  picture gives. Not from 0.5 on, because an interval knows the chance in the patients, but not that in the fitted
  models, and because the bytes that a picture takes have a little to do with what it shows.
"""

SHARE_LIMIT = 0.5
AUROC_LIMIT = 0.6
