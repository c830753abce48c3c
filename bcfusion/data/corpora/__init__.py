"""Where utterances come from: one file a corpus, each a :class:`bcfusion.contracts.Corpus`."""
