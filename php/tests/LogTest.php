<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Supervisor;
use Roster\Worker\Line;
use Roster\Worker\Logger;

/** A worker's log neither throws nor has it wait. */
final class LogTest extends TestCase
{
    private const LOAD = 'require $argv[1]; ';
    /** As frameworks have it. */
    private const STRICT = 'set_error_handler(static fn ($level, $message) => throw new ErrorException($message)); ';

    private Folder $folder;

    protected function setUp(): void
    {
        $this->folder = new Folder();
    }

    /** @dataProvider outputs */
    public function testStandardErrorThatTakesNothingHarmsNothing(string $redirection): void
    {
        $code = self::LOAD . self::STRICT
            . '$log = Roster\Worker::connect("unix:///nowhere", token: "x")->log(); $log->info("a"); $log->info("b");'
            . ' file_put_contents($argv[2], "on");';
        $command = ['bash', '-c', "exec \"\$@\" $redirection", 'bash', PHP_BINARY, ...$this->php($code)];
        $process = new Process([...$command, "{$this->folder->path}/went"], "{$this->folder->path}/log");
        self::assertSame(0, $process->await(), $process->output());
        self::assertFileExists("{$this->folder->path}/went");
    }

    public static function outputs(): array
    {
        return ['closed' => ['2>&-'], 'full' => ['2> /dev/full'], 'a broken pipe' => ['2> >(exec true); sleep 0.1']];
    }

    public function testWhatCannotBeMadeATextIsLeftOut(): void
    {
        [$here, $there] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        array_map(static fn ($stream) => stream_set_blocking($stream, false), [$here, $there]);
        $line = new Line($here);
        $logger = new Logger(static fn () => $line);
        $throws = new class () {
            public function __toString(): string
            {
                throw new \DomainException('not now');
            }
        };
        set_error_handler(static fn (int $level, string $message) => throw new \ErrorException($message));
        try {
            $logger->info($throws);
            $logger->log(new \stdClass(), 'a level');
            $logger->info(['a list']);
        } finally {
            restore_error_handler();
        }
        $logged = array_column((new Line($there))->receive(), 0);
        self::assertStringEndsWith(', left out: not now', $logged[0]['message']);
        self::assertSame(['stdClass, left out: ', 'a level'], [substr($logged[1]['level'], 0, 20), $logged[1]['message']]);
        self::assertSame('Array', $logged[2]['message']);
    }

    public function testWhatIsLoggedBeforeTheSidecarAcceptsItsWorkerIsSentThen(): void
    {
        $code = self::LOAD . '$worker = Roster\Worker::fromEnvironment(); $began = hrtime(true);'
            . ' $worker->log()->info("first"); for ($i = 0; $i < 99; $i++) { $worker->log()->info(str_repeat("x", 10_000)); }'
            . ' file_put_contents($argv[2], (string) (hrtime(true) - $began)); $worker->ready(); $worker->log()->info("last");'
            . ' $worker->run();';
        $took = "{$this->folder->path}/took";
        $sidecar = new Supervisor(command: [PHP_BINARY, ...$this->php($code), $took], isAccepted: false);
        Process::until(static fn () => is_file($took) && filesize($took) > 0, 'it is logged');
        self::assertLessThan(5e9, (float) file_get_contents($took));
        $sidecar->accept();
        $sidecar->receive('worker-ready');
        self::assertSame('first', $sidecar->receive('worker-log')['message']);
        $messages = [];
        while (end($messages) !== 'last') {
            $log = $sidecar->receive('worker-log');
            $messages[] = $log['message'];
            $count = $log['context']['count'] ?? $count ?? 0;
        }
        self::assertSame(99, count($messages) - 2 + $count, 'what is left out is counted');
        self::assertGreaterThan(50, $count);
    }

    public function testWhatTheSidecarNeverAcceptedGoesToStandardErrorAtTheEnd(): void
    {
        $code = self::LOAD . 'Roster\Worker::fromEnvironment()->log()->info("its {what}", ["what" => "last word"]); exit(3);';
        $sidecar = new Supervisor(command: [PHP_BINARY, ...$this->php($code)], isAccepted: false);
        self::assertSame(3, $sidecar->worker->await());
        self::assertStringContainsString('info: its last word', $sidecar->worker->output());
    }

    public function testWhatIsLoggedInALaterShutdownFunctionGoesToStandardError(): void
    {
        $code = self::LOAD . '$log = Roster\Worker::fromEnvironment()->log(); $log->info("first");'
            . ' register_shutdown_function(static fn () => $log->error("what it died of")); exit(3);';
        $sidecar = new Supervisor(command: [PHP_BINARY, ...$this->php($code)], isAccepted: false);
        self::assertSame(3, $sidecar->worker->await());
        self::assertMatchesRegularExpression('/info: first\n.*error: what it died of/', $sidecar->worker->output());
    }

    /** @return list<string> */
    private function php(string $code): array
    {
        return ['-r', $code, dirname(__DIR__) . '/autoload.php'];
    }
}
