"""Where utterances come from: one file per corpus, each a :class:`bcfusion.contracts.Corpus`."""
