package networktopology

// Fade is fade.
var Fade = fade
