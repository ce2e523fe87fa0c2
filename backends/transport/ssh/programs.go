package ssh

type programs struct{}
