"""Files of models on disk: which of them are read, and how. Needs neither torch nor numpy; opens no tensor."""
