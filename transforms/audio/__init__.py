"""From a file's bytes to blocks of samples: which decoder, where it runs. Imports no Beam."""
