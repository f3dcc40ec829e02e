<?php
// A service that others call: roster call letters.send to=ada@example.com text=Hello
require __DIR__ . '/../../php/autoload.php';

final class Mail
{
    private int $sent = 0;

    public function __construct(private readonly string $from, private readonly object $log)
    {
    }

    /** Pretends to send. What it throws is its caller's error. */
    public function send(string $to, string $text): string
    {
        if (!str_contains($to, '@')) {
            throw new InvalidArgumentException("`$to` is no address");
        }
        $this->sent++;
        $this->log->info('sent {bytes} bytes to {to}', ['bytes' => strlen($text), 'to' => $to]);
        return "$this->from has written to $to";
    }

    /** Each answer leaves as soon as it is there. */
    public function sendMany(array $to, string $text): iterable
    {
        foreach ($to as $address) {
            yield $this->send($address, $text);
        }
    }

    public function sent(): int
    {
        return $this->sent;
    }
}

$worker = Roster\Worker::fromEnvironment();
$mail = new Mail($worker->params()['from'], $worker->log());
$worker->offer('letters', $mail, ['version' => '1.0.0']);
$worker->onCommand('sent', fn () => $mail->sent());
$worker->ready();
$worker->run();
